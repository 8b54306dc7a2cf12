-- Orthanc: send each study of PET and MRI that has come to rest to medfuse; docs/how-to/listen-to-a-pacs.md
function OnStableStudy(study, tags, metadata)
   local found = {}
   for _, series in pairs(ParseJson(RestApiGet('/studies/' .. study .. '/series'))) do
      if series['MainDicomTags']['Manufacturer'] ~= 'The medfuse authors' then
         found[series['MainDicomTags']['Modality']] = true
      end
   end
   if found['PT'] and found['MR'] then
      -- SendToModality sends single instances only
      RestApiPost('/modalities/medfuse/store', DumpJson({Resources = {study}, Asynchronous = true}, true))
   end
end
